"""Pages that people look at: a model, its growth and what was measured, as one self-contained HTML file.

``parts`` finds what a picture shows, ``drawing`` lays it out, ``evidence`` says for every dimension why
its growth changes nothing, ``page`` brings all together and ``render`` writes it with the templates of
``templates/``. Everything is read from the view, the plan and the report, so one page serves both carriers.
"""
