"""Attention of Hugging Face transformers by pidsl."""
