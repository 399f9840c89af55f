"""The unified API: one shape for every kind of inference, by the names the product was specified with."""
