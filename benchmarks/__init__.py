"""Side-by-side measurements against peers; nothing in src imports them. `make bench` runs all of them."""
