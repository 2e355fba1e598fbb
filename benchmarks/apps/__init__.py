"""What gunicorn runs in the benchmarks: imported there with nothing else of them."""
