"""The verification suite on an accelerator: ``make test-gpu``."""
