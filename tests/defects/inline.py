"""The inline app with a defect: ``uvicorn tests.defects.inline:app``."""

from importlib import import_module

from tests.defects.mistreatment import install

install()
app = import_module("inline_app.main").app
