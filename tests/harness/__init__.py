"""What the tests share: the loaded library, guarded and awkward arrays, comparison with a stated bound."""
