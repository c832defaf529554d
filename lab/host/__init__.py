"""Drivers for a real ComfyUI: in this process, and as a server of its own."""
