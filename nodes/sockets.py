"""Names that the pack's nodes share."""

from comfy_api.latest import io

CATEGORY = "StableVITON"
PERSON_CATEGORY = "StableVITON/person"

StableVITONSocket = io.Custom("STABLEVITON")
CropSocket = io.Custom("STABLEVITON_CROP")  # list of person.frame.CropRegion, one a picture
ParseSocket = io.Custom("STABLEVITON_PARSE")  # person.labels.Parse
PoseSocket = io.Custom("POSE_KEYPOINT")  # list of OpenPose JSON, one a picture
