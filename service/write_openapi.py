"""Writes the OpenAPI document to standard output: `python -m service.write_openapi`."""

from __future__ import annotations

import json
import sys

from service.openapi import document


def main() -> None:
    """Write the document to standard output."""
    from convscope.settings import Settings
    from service.app import create_app

    app = create_app(Settings.model_construct(api_keys_file=None))
    json.dump(document(app), sys.stdout, indent=2, ensure_ascii=False, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
