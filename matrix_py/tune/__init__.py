"""Low-rank adapters: trained on a dataset, written for llama.cpp, merged into whole models."""
