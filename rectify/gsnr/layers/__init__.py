"""The layers that can be measured: one file per type, found by looking through this folder.

A file holds one subclass of ``rectify.gsnr.contract.LayerType``. To add a type, add a file.
"""
