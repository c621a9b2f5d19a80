"""Reports as HTML: one self-contained file without scripts, drawn from the files of run folders."""
