"""Verification is tested from both sides: what is right passes, what is wrong is caught."""
