"""unetkit: segment medical images with the U-Net family."""
