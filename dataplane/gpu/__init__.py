"""What runs on a GPU, or on the CPU with the same code: pipelines of DALI.

The only package that imports DALI, nvCOMP and Triton, and only when something that needs them is
used: importing it imports none of them.
"""
