"""Names and shapes of the weights of the networks that come from elsewhere: CLIP tower (names of
transformers' CLIPVisionModel) and autoencoder (names of latent diffusion, as in checkpoints)."""

from .config import AutoencoderConfig, ClipConfig

Shapes = dict[str, tuple[int, ...]]

TOWER = "vision_model."  # before CLIP's names; transformers 5 leaves it out
IMAGE_CHANNELS = 3


def list_clip_shapes(config: ClipConfig) -> Shapes:
    channels, patch = config.hidden_size, config.patch_size
    positions = (config.image_size // patch) ** 2 + 1
    shapes: Shapes = {
        f"{TOWER}embeddings.class_embedding": (channels,),
        f"{TOWER}embeddings.patch_embedding.weight": (channels, IMAGE_CHANNELS, patch, patch),
        f"{TOWER}embeddings.position_embedding.weight": (positions, channels),
    }
    # sic: the released spelling of "pre_layernorm"
    shapes |= _list_norm(f"{TOWER}pre_layrnorm", channels) | _list_norm(
        f"{TOWER}post_layernorm", channels
    )
    for index in range(config.num_hidden_layers):
        layer = f"{TOWER}encoder.layers.{index}."
        shapes |= _list_norm(f"{layer}layer_norm1", channels) | _list_norm(
            f"{layer}layer_norm2", channels
        )
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _list_layer(f"{layer}self_attn.{name}", channels, channels)
        shapes |= _list_layer(f"{layer}mlp.fc1", config.intermediate_size, channels)
        shapes |= _list_layer(f"{layer}mlp.fc2", channels, config.intermediate_size)
    return shapes


def list_autoencoder_shapes(config: AutoencoderConfig) -> Shapes:
    channels = [config.model_channels * mult for mult in config.channel_mult]
    latent, top = config.latent_channels, channels[-1]
    shapes = _list_layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    shapes |= _list_layer("post_quant_conv", latent, latent, 1, 1)
    shapes |= _list_layer("encoder.conv_in", channels[0], IMAGE_CHANNELS, 3, 3)
    shapes |= _list_layer("encoder.conv_out", 2 * latent, top, 3, 3)
    shapes |= _list_layer("decoder.conv_in", top, latent, 3, 3)
    shapes |= _list_layer("decoder.conv_out", IMAGE_CHANNELS, channels[0], 3, 3)
    shapes |= _list_middle("encoder", top) | _list_middle("decoder", top)
    shapes |= _list_norm("encoder.norm_out", top) | _list_norm("decoder.norm_out", channels[0])
    before = channels[0]
    for level, width in enumerate(channels):
        name = f"encoder.down.{level}"
        shapes |= _list_blocks(name, config.num_res_blocks, before, width)
        if level < len(channels) - 1:
            shapes |= _list_layer(f"{name}.downsample.conv", width, width, 3, 3)
        before = width
    for level, width in reversed(list(enumerate(channels))):
        name = f"decoder.up.{level}"
        shapes |= _list_blocks(name, config.num_res_blocks + 1, before, width)
        if level > 0:
            shapes |= _list_layer(f"{name}.upsample.conv", width, width, 3, 3)
        before = width
    return shapes


def _list_middle(coder: str, channels: int) -> Shapes:
    shapes = _list_norm(f"{coder}.mid.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        shapes |= _list_layer(f"{coder}.mid.attn_1.{name}", channels, channels, 1, 1)
    for block in ("block_1", "block_2"):
        shapes |= _list_residual_block(f"{coder}.mid.{block}", channels, channels)
    return shapes


def _list_blocks(level: str, count: int, before: int, channels: int) -> Shapes:
    shapes: Shapes = {}
    for index in range(count):
        shapes |= _list_residual_block(f"{level}.block.{index}", before, channels)
        before = channels
    return shapes


def _list_residual_block(name: str, before: int, channels: int) -> Shapes:
    shapes = _list_norm(f"{name}.norm1", before) | _list_norm(f"{name}.norm2", channels)
    shapes |= _list_layer(f"{name}.conv1", channels, before, 3, 3)
    shapes |= _list_layer(f"{name}.conv2", channels, channels, 3, 3)
    if before != channels:
        shapes |= _list_layer(f"{name}.nin_shortcut", channels, before, 1, 1)
    return shapes


def _list_layer(name: str, *shape: int) -> Shapes:
    """Weight and bias of a linear layer or convolution. shape: of the weight."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _list_norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
