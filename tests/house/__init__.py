"""Tests of the house: where things stand, what may import what, what is shipped."""
