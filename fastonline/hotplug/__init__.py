"""The machine: memory hot-plug, zones and nodes, watermarks, notifiers, blocks, and its /proc and lsmem texts.

memory has the public class. Each phase is a file of functions over a Machine: add_remove, onlining, offlining, page_alloc.
"""
