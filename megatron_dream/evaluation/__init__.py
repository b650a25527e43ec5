"""Looking at what a model makes: samples on the command line, on a page and in a terminal."""
