#!/usr/bin/env python3
"""Installs the chart into a server that speaks as much Kubernetes as Helm needs, and holds what arrives to the schemas.

What is rendered is what Helm itself sends: the library of Helm 4 and the schemas of Kubernetes come from PyPI, pinned below.
Exit status 1: a fault. Nothing listens beyond loopback, and nothing is left behind but the folder of downloads.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.server
import json
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

CHART = Path(__file__).resolve().parent / "matins"
HELM = ("helm-sdkpy", "0.1.32", "bcf5bf73cacc373bebedfb9c988969aa12a9eda86a140deba658fbf28eb789c5")
SCHEMAS = "kubernetes-validate==1.37.0"
# The oldest release that the chart says it supports, and a new one.
KUBERNETES = ("1.25", "1.36")

# What each group of the API offers, as discovery tells it.
GROUPS = {
    "v1": [("secrets", "Secret"), ("services", "Service"), ("pods", "Pod"), ("namespaces", "Namespace")],
    "apps/v1": [("statefulsets", "StatefulSet"), ("deployments", "Deployment")],
    "batch/v1": [("jobs", "Job")],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
}

# Values that a user may well give, and how many objects come of each: two services, the budget, two policies, the nodes, the Job
# that makes the cluster, and the executors.
CASES = [
    ({}, 8),
    ({"nodes": {"count": 5, "spread": False, "publicHosts": ["matins.example.com"]}, "clusterDomain": "k8s.example", "executors": {"count": 0}, "tag": "1.2.3"}, 7),
    (
        {
            "nodes": {"storage": {"className": "fast"}, "nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}]},
            "executors": {"labels": {"zone": "a", "disk": "ssd"}, "storage": {"className": "fast"}},
            "imagePullSecrets": [{"name": "registry"}],
        },
        8,
    ),
]


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """Takes everything and keeps it; a Job is done as soon as it is there."""

    kept: dict[str, dict] = {}
    sent: list[dict] = []

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: dict):
        self.send(status, "application/json", json.dumps(body).encode())

    def send(self, status: int, kind: str, data: bytes):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        path = path.rstrip("/")
        if "watch=true" in query:
            return self.send(200, "application/json", b"")
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": KUBERNETES[-1].split(".")[1], "gitVersion": f"v{KUBERNETES[-1]}.0"})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            groups = [version.split("/") for version in GROUPS if "/" in version]
            told = [
                {"name": group, "versions": [versions(group, version)], "preferredVersion": versions(group, version)}
                for group, version in groups
            ]
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": told})
        if path.startswith("/openapi/v3"):
            return self.answer(200, openapi(path.removeprefix("/openapi/v3").strip("/")))
        offered = GROUPS.get(path.removeprefix("/apis/").removeprefix("/api/"))
        if offered:
            resources = [
                {"name": name, "singularName": "", "namespaced": name != "namespaces", "kind": kind, "verbs": ["create", "get", "list", "watch"]}
                for name, kind in offered
            ]
            version = path.removeprefix("/apis/").removeprefix("/api/")
            return self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
        if path in self.kept:
            return self.answer(200, self.kept[path])
        if path.split("/")[-1] in {name for group in GROUPS.values() for name, _ in group}:
            items = [it for at, it in self.kept.items() if at.startswith(path + "/")]
            kind = items[0]["kind"] if items else "Secret"
            return self.answer(200, {"kind": f"{kind}List", "apiVersion": items[0]["apiVersion"] if items else "v1", "metadata": {"resourceVersion": "1"}, "items": items})
        return self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self):
        self.keep(self.path.split("?")[0], 201)

    def do_PUT(self):
        self.keep(self.path.split("?")[0].rsplit("/", 1)[0], 200)

    def do_PATCH(self):
        self.keep(self.path.split("?")[0].rsplit("/", 1)[0], 200)

    def do_DELETE(self):
        self.kept.pop(self.path.split("?")[0], None)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def keep(self, folder: str, status: int):
        data, kind = self.rfile.read(int(self.headers["Content-Length"])), self.headers["Content-Type"]
        if "json" not in kind:
            # Helm's own record of the release, in protobuf: it wants to see it again, and nobody else does.
            return self.send(status, kind, data)
        thing = json.loads(data)
        self.sent.append(json.loads(data))
        if thing["kind"] == "Job":
            thing["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        self.kept[f"{folder}/{thing['metadata']['name']}"] = thing
        self.answer(status, thing)


def openapi(group: str) -> dict:
    """That the server checks fields itself, which is all that Helm looks for before it creates a hook."""
    if not group:
        return {"paths": {folder(version): {"serverRelativeURL": f"/openapi/v3/{folder(version)}"} for version in GROUPS}}
    version = group.removeprefix("apis/").removeprefix("api/")
    name, _, number = version.rpartition("/")
    paths = {}
    for resource, kind in GROUPS[version]:
        what = {"group": name, "version": number, "kind": kind}
        patch = {"x-kubernetes-group-version-kind": what, "parameters": [{"name": "fieldValidation", "in": "query"}]}
        paths[f"/{group}/namespaces/{{namespace}}/{resource}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}


def folder(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def versions(group: str, version: str) -> dict:
    return {"groupVersion": f"{group}/{version}", "version": version}


def helm(folder: Path) -> ctypes.CDLL:
    """The library of Helm, out of the wheel whose digest is known."""
    name, version, digest = HELM
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    subprocess.run([*pip, f"--dest={folder}", f"{name}=={version}"], check=True)
    wheel = next(folder.glob("helm_sdkpy-*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"{wheel.name} is not what was looked at when this was written: {found}")
    with zipfile.ZipFile(wheel) as opened:
        library = opened.extract("helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so", folder)
    loaded = ctypes.CDLL(library)
    loaded.helm_sdkpy_last_error.restype = ctypes.c_char_p
    return loaded


def call(library: ctypes.CDLL, what: str, *args) -> str:
    """Calls a function whose last argument takes JSON."""
    result = ctypes.c_char_p()
    if getattr(library, f"helm_sdkpy_{what}")(*args, ctypes.byref(result)) != 0:
        sys.exit(f"helm {what}: {library.helm_sdkpy_last_error().decode()}")
    return (result.value or b"").decode()


def install(library: ctypes.CDLL, port: int, values: dict) -> list[dict]:
    """What Helm sends for these values."""
    Kubernetes.kept, Kubernetes.sent = {}, []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        user = {"name": "check", "user": {}}
        cluster = {"name": "check", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        context = {"name": "check", "context": {"cluster": "check", "user": "check", "namespace": "etl"}}
        json.dump(
            {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user], "contexts": [context], "current-context": "check"},
            config,
        )
        config.flush()
        handle = ctypes.c_uint64()
        made = library.helm_sdkpy_config_create(b"etl", config.name.encode(), b"check", b"{}", ctypes.byref(handle))
        if made != 0:
            sys.exit(f"helm: {library.helm_sdkpy_last_error().decode()}")
        options = {"wait": False, "timeout_seconds": 20, "server_side_apply": "false", "disable_openapi_validation": True}
        arguments = (b"nightly", str(CHART).encode(), json.dumps(values).encode(), b"", json.dumps(options).encode())
        told = json.loads(call(library, "lint", handle, str(CHART).encode()))
        # Below 2 are recommendations, such as to have an icon.
        faults = [it for it in told["Messages"] or [] if it["Severity"] >= 2]
        if faults:
            sys.exit(f"helm lint: {json.dumps(faults, indent=2)}")
        call(library, "install", handle, *arguments)
        library.helm_sdkpy_config_destroy(handle)
    return Kubernetes.sent


def public_hosts(things: list[dict]) -> set[str]:
    """Names under which the nodes answer plain HTTP."""
    nodes = next(it for it in things if it["kind"] == "StatefulSet" and not it["metadata"]["name"].endswith("tasks"))
    variables = nodes["spec"]["template"]["spec"]["containers"][0]["env"]
    return set(next(it["value"] for it in variables if it["name"] == "MATINS_NODE_PUBLIC_HOSTS").split(","))


def main():
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder)
        library = helm(tools)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", f"--target={tools}", SCHEMAS], check=True)
        sys.path.insert(0, str(tools))
        import kubernetes_validate

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for values, count in CASES:
            things = install(library, server.server_port, values)
            names = sorted(f"{it['kind']}/{it['metadata']['name']}" for it in things)
            if len(things) != count:
                sys.exit(f"{count} objects were expected for {values}, and these came: {names}")
            hosts = public_hosts(things)
            domain = values.get("clusterDomain", "cluster.local")
            services = {it["metadata"]["name"] for it in things if it["kind"] == "Service"}
            wanted = {f"{name}{end}" for name in services for end in ("", ".etl", ".etl.svc", f".etl.svc.{domain}")}
            wanted |= {"*.nightly-matins-nodes.etl.svc", *values.get("nodes", {}).get("publicHosts", [])}
            if not wanted <= hosts:
                sys.exit(f"plain HTTP would not be answered under {sorted(wanted - hosts)}")
            for thing in things:
                for version in KUBERNETES:
                    try:
                        kubernetes_validate.validate(thing, version, strict=True)
                    except kubernetes_validate.ValidationError as fault:
                        path = ".".join(str(part) for part in fault.path)
                        sys.exit(f"{thing['kind']} does not fit Kubernetes {version}: {path}: {fault.message}")
            print(f"{len(things)} objects fit Kubernetes {' and '.join(KUBERNETES)}: {', '.join(names)}")
        server.shutdown()


if __name__ == "__main__":
    main()
