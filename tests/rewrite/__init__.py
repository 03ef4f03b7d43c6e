"""Tests of the rewriting core, one file for each module or property."""
