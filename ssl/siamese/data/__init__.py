"""Data sets (`sets`), their splits (`dataset`), image stores (`images`, `packed`) and batches (`loading`)."""

from siamese.data.dataset import DataSet, Split, some_of
from siamese.data.files import ImageFiles
from siamese.data.images import Images, ImageStore, TensorImages, listed, to_device
from siamese.data.labels import is_known
from siamese.data.loading import Loader, LoaderConfig

__all__ = ["DataSet", "ImageFiles", "ImageStore", "Images", "Loader", "LoaderConfig", "Split", "TensorImages",
           "is_known", "listed", "some_of", "to_device"]  # fmt: skip
