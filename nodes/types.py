"""Names that the pack's nodes share."""

from comfy_api.latest import io

CATEGORY = "StableVITON"
PERSON_CATEGORY = "StableVITON/person"

StableVITONSocket = io.Custom("STABLEVITON")
FrameSocket = io.Custom("STABLEVITON_FRAME")  # list of person.frame.Frame, one a picture
ParseSocket = io.Custom("STABLEVITON_PARSE")  # person.labels.Parse
PoseSocket = io.Custom("POSE_KEYPOINT")  # list of OpenPose JSON, one a picture
