"""What runs on a developer's machine only, beside the product: the image leaves it out."""
