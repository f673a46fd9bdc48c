#!/usr/bin/env node
// Starts the command line. Runs on any Node that knows ES modules; where it is older than what neon needs, it starts
// itself again with the Node that npm installed along (the optional package node-<platform>-<arch>).
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import module from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const NEEDED = [22, 15];
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const argv = process.argv.slice(2);

if (argv[0] === "--version" || argv[0] === "-v") printVersion();
else if (isRecent(process.versions.node)) await run();
else restart();

function isRecent(version) {
  const [major, minor] = version.split(".").map(Number);
  return major > NEEDED[0] || (major === NEEDED[0] && minor >= NEEDED[1]);
}

function printVersion() {
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const json = argv.includes("--json");
  console.log(json ? JSON.stringify({ ok: true, version }) : `neon ${version}`);
}

async function run() {
  const entry = join(root, "dist", "commands", "shared", "main.js");
  if (!existsSync(entry)) fail("neon is not built.", "Run `npm run build` in " + root + ".");
  module.enableCompileCache?.();
  const { main } = await import(entry);
  await main(argv, root);
}

function restart() {
  const node = process.env.NEON_NODE_RESTARTED ? undefined : broughtNode();
  if (node === undefined) {
    fail(
      `neon needs Node.js ${NEEDED.join(".")} or newer; this is ${process.versions.node}.`,
      "Install a newer Node.js, or run `npm install` with optional dependencies, which brings one along.",
    );
  }
  const child = spawn(node, [...process.execArgv, fileURLToPath(import.meta.url), ...argv], {
    stdio: "inherit",
    env: { ...process.env, NEON_NODE_RESTARTED: "1" },
  });
  // A terminal sends Ctrl-C to both of us; a signal from elsewhere reaches only this process.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("error", (error) => fail(`cannot start ${node}: ${error.message}`, "Run `npm install` again."));
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

/** The Node of the optional package for this machine, if it is installed. */
function broughtNode() {
  try {
    const name = `node-${process.platform}-${process.arch}/package.json`;
    const binary = join(dirname(module.createRequire(import.meta.url).resolve(name)), "bin", "node");
    return existsSync(binary) ? binary : undefined;
  } catch {
    return undefined;
  }
}

function fail(message, hint) {
  if (argv.includes("--json")) {
    console.log(JSON.stringify({ ok: false, error: { code: "failed", message, hint } }, undefined, 2));
  } else {
    console.error(`error: ${message}\nhint: ${hint}`);
  }
  process.exit(1);
}
