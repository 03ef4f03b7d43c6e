"""What benchmarks/training.py is made of: a decoder, texts, the table of runs, one run, the report."""
