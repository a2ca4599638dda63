"""The extractor API of the founding guide: a photo in, `{"bib": 256}` out. A thin layer over bibwatch."""
