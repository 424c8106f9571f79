"""Real collections of pictures from Debian packages, and how well a code finds the copies of a picture in them."""
