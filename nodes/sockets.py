"""Types of the wires between this pack's nodes."""

from comfy_api.v0_0_2 import io

MultiIPAdapterSocket = io.Custom("MULTI_IPADAPTER")
ReferenceEmbedsSocket = io.Custom("REFERENCE_EMBEDS")
ReferenceDatasetSocket = io.Custom("REFERENCE_DATASET")
EvaluationReportSocket = io.Custom("EVALUATION_REPORT")
FaceAnalysisSocket = io.Custom("MULTI_IPADAPTER_FACES")

CATEGORY = "multi-ipadapter"
