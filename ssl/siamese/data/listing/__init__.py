"""Which files of a folder are images, and their labels."""

from siamese.data.listing.images import UNKNOWN, Listing, list_images

__all__ = ["UNKNOWN", "Listing", "list_images"]
