"""`matrix bench`: how fast the engine is, on work of a given shape, and beside llama.cpp's own server."""
