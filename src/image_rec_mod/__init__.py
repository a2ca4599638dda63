"""The extractor API: a photo in, `{"bib": 256}` out. A thin layer over bibwatch."""
