"""Images and their batches.

From the ground up: files of any format become arrays (`decoding`), folders and tables say which files and labels there
are (`listing`, `containers`), `files`, `packed` and `images` hold images, `dataset` and `sets` make splits of them,
`loading` gives batches. `crops` cuts files that are streamed; `statistics`, `survey` and `duplicates` look at images.
"""

from siamese.data.dataset import DataSet, Split, some_of
from siamese.data.files import ImageFiles
from siamese.data.images import Images, ImageStore, TensorImages, listed, to_device
from siamese.data.labels import is_known
from siamese.data.loading import Loader, LoaderConfig

__all__ = ["DataSet", "ImageFiles", "ImageStore", "Images", "Loader", "LoaderConfig", "Split", "TensorImages",
           "is_known", "listed", "some_of", "to_device"]  # fmt: skip
