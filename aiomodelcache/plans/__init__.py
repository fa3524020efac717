"""How look-ups proceed, without doing any I/O: generators that yield what they need next."""
