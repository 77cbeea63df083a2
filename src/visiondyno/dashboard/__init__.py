"""The dashboard: server-rendered pages over the service, with a little script that keeps them live.

Every page and every action works as plain HTML. All assets are inside the package.
"""
