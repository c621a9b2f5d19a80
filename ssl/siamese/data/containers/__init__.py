"""Image files inside containers: Hugging Face data sets on disk, and tar shards of WebDataset."""

from siamese.data.containers.arrow import hugging_face, hugging_face_splits
from siamese.data.containers.shards import webdataset
from siamese.data.containers.source import Source, share_classes

__all__ = ["Source", "hugging_face", "hugging_face_splits", "share_classes", "webdataset"]
