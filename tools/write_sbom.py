"""Writes requirements/sbom.cdx.json: all that the image and compose.yaml bring along, as a CycloneDX document.

Of the lock and the pinned images alone, without a moment or a serial number: the same lock gives the same bytes.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from meshes import __version__
from tools.locked import PROJECT, images, packages

TARGET = PROJECT / "requirements" / "sbom.cdx.json"
PROJECT_LINE = "meshes"


def make_sbom() -> str:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    root = Component(
        name=project["name"],
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        licenses=[DisjunctiveLicense(id=project["license"])],
    )
    bom = Bom()
    bom.metadata.component = root
    locked = packages()
    components = {each.name: _component(each.name, each.version, each.hashes, "pypi") for each in locked}
    needs: dict[str, set[str]] = {name: set() for name in [PROJECT_LINE, *components]}
    for each in locked:
        for dependent in each.needed_by:
            needs[dependent].add(each.name)
    bom.components = [*components.values(), *(_image(*found) for found in images())]
    bom.register_dependency(root, [components[name] for name in needs.pop(PROJECT_LINE)])
    for name, needed in needs.items():
        bom.register_dependency(components[name], [components[each] for each in needed])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _component(name: str, version: str, hashes: tuple[str, ...], kind: str) -> Component:
    url = PackageURL(kind, name=name, version=version)
    return Component(
        name=name,
        version=version,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
    )


def _image(name: str, tag: str, digest: str) -> Component:
    group, _, short = name.rpartition("/")
    url = PackageURL("docker", namespace=group or None, name=short, version=f"sha256:{digest}", qualifiers={"tag": tag})
    return Component(
        name=name,
        version=tag,
        type=ComponentType.CONTAINER,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


def write(target: Path = TARGET) -> None:
    target.write_text(make_sbom())


if __name__ == "__main__":
    write()
