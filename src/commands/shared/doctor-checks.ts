/** What `neon doctor` looks at: the machine first, then the repository and what runs in it. */
import { accessSync, constants, realpathSync, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { NeonError, messageOf } from "../../base/errors.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import { findBinaries } from "../../compute/binaries.ts";
import type { ComputeManager } from "../../compute/compute-manager.ts";
import { type PageserverReport, PageserverProcess } from "../../compute/pageserver-process.ts";
import { checkReachable, chooseRunAs } from "../../compute/run-as.ts";
import { parseListenAddress } from "../../repository/config-keys.ts";
import { portIsFree } from "../../repository/ports.ts";
import type { Repository } from "../../repository/repository.ts";
import { formatBytes } from "./output.ts";

export interface CheckResult {
  readonly name: string;
  readonly state: "ok" | "warning" | "failed";
  readonly message: string;
  readonly hint?: string | undefined;
}

const MIB = 1024 * 1024;
const DISK_BYTES_WANTED = 1024 * MIB;
const DISK_BYTES_NEEDED = 100 * MIB;
/** Longest path of a unix socket that every system allows, with room for the socket's own name. */
const SOCKET_DIRECTORY_BYTES_MAX = 80;

export async function checkMachine(
  pgVersion: number,
  configured: { pgBin?: string; runAs?: string },
): Promise<CheckResult[]> {
  return [
    ok("node", `Node.js ${process.versions.node} (${process.execPath})`),
    await guarded("postgres", () => checkPostgres(pgVersion, configured.pgBin)),
    await guarded("user", () => checkUser(configured.runAs)),
    await guarded("temporary directory", checkTemporaryDirectory),
    await guarded("search path", checkSearchPath),
  ];
}

export async function checkRepository(
  repository: Repository,
  client: PageserverClient,
  computes: ComputeManager,
): Promise<CheckResult[]> {
  const report = await new PageserverProcess(repository).inspect();
  const results = [
    await guarded("config", () => checkConfig(repository)),
    await guarded("disk", () => checkDisk(repository.directory)),
    await guarded("directory", () => checkDirectory(repository)),
    await guarded("pageserver", () => checkPageserver(repository, report)),
    ...(await checkComputes(computes, report)),
  ];
  if (report.state === "running") results.push(await guarded("branches", () => checkBranches(client)));
  return results;
}

function ok(name: string, message: string): CheckResult {
  return { name, state: "ok", message };
}

/** A check that throws has failed; its error says why. */
async function guarded(name: string, check: () => CheckResult | Promise<CheckResult>): Promise<CheckResult> {
  try {
    return await check();
  } catch (error) {
    const hint = error instanceof NeonError ? error.hint : undefined;
    return { name, state: "failed", message: messageOf(error), hint };
  }
}

async function checkPostgres(major: number, configured: string | undefined): Promise<CheckResult> {
  const { version, bindir, source } = await findBinaries({ major, configured });
  return ok("postgres", `Postgres ${version} (${source}: ${bindir})`);
}

function checkUser(configured: string | undefined): CheckResult {
  const user = chooseRunAs(configured);
  if (user) return ok("user", `run as root, so Postgres runs as ${user.name} (${user.uid}:${user.gid})`);
  return ok("user", `Postgres runs as you (${process.getuid?.() ?? "?"})`);
}

function checkTemporaryDirectory(): CheckResult {
  const directory = tmpdir();
  accessSync(directory, constants.W_OK | constants.X_OK);
  return ok("temporary directory", directory);
}

/** Another program called `neon` (the command line of Neon's cloud has that name) may be found first. */
function checkSearchPath(): CheckResult {
  const name = "search path";
  const own = realpathSync(join(import.meta.dirname, "..", "..", "..", "bin", "neon.js"));
  const first = programsNamed("neon").at(0);
  if (first === undefined) return ok(name, "no `neon` on it; this one was started by its path");
  if (realpathSync(first) === own) return ok(name, `\`neon\` is ${first}`);
  return {
    name,
    state: "warning",
    message: `\`neon\` is another program: ${first}`,
    hint: `Put the directory of this one before it in PATH, or use an alias: alias neon=${own}`,
  };
}

function programsNamed(program: string): string[] {
  return (process.env["PATH"] ?? "").split(delimiter).flatMap((directory) => {
    const path = join(directory || ".", program);
    try {
      accessSync(path, constants.X_OK);
      return [path];
    } catch {
      return [];
    }
  });
}

function checkConfig(repository: Repository): CheckResult {
  const { mode } = statSync(repository.configPath);
  if ((mode & 0o077) === 0) return ok("config", repository.configPath);
  return {
    name: "config",
    state: "warning",
    message: `${repository.configPath} holds secrets and can be read by others`,
    hint: `chmod 600 ${repository.configPath}`,
  };
}

async function checkDisk(directory: string): Promise<CheckResult> {
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  const message = `${formatBytes(free)} free`;
  if (free >= DISK_BYTES_WANTED) return ok("disk", message);
  const state = free < DISK_BYTES_NEEDED ? "failed" : "warning";
  return { name: "disk", state, message, hint: "Make room: a full disk stops the pageserver." };
}

function checkDirectory(repository: Repository): CheckResult {
  checkReachable(repository.computesDirectory, chooseRunAs(repository.config.runAs));
  if (Buffer.byteLength(repository.computesDirectory) <= SOCKET_DIRECTORY_BYTES_MAX) {
    return ok("directory", repository.directory);
  }
  return {
    name: "directory",
    state: "warning",
    message: `${repository.directory} is too long a path for unix sockets: computes are reached through TCP only`,
    hint: "A shorter path makes connections a little faster; everything works without.",
  };
}

async function checkPageserver(repository: Repository, report: PageserverReport): Promise<CheckResult> {
  const name = "pageserver";
  if (report.state === "running") return ok(name, `runs at ${report.uri}, process ${report.pid}`);
  if (report.state !== "stopped") {
    const hint = "See `neon logs`; `neon stop --force` ends it without loss.";
    return { name, state: "failed", message: `is ${report.state.replaceAll("_", " ")}`, hint };
  }
  const port = parseListenAddress(repository.config.pageserver.listen)?.port ?? 0;
  if (await portIsFree(port)) {
    return { name, state: "warning", message: "does not run", hint: "Start it with `neon start`." };
  }
  return {
    name,
    state: "failed",
    message: `does not run, and another program uses its port ${port}`,
    hint: "End that program, or choose another port: `neon config set pageserver.listen 127.0.0.1:PORT`.",
  };
}

async function checkComputes(computes: ComputeManager, report: PageserverReport): Promise<CheckResult[]> {
  return (await computes.list()).map((compute) => {
    const name = `compute ${compute.name}`;
    if (compute.state === "crashed") {
      const hint = `Start it again with \`neon pg start ${compute.name}\`; \`neon logs ${compute.name}\` may say why.`;
      return { name, state: "warning", message: "has ended without being stopped", hint };
    }
    const waits = report.state !== "running" && compute.commit === "remote" && compute.mode === "read-write";
    if (compute.state === "running" && waits) {
      const hint = "Start it with `neon start`.";
      return { name, state: "failed", message: "runs, but COMMIT waits for the pageserver", hint };
    }
    return ok(name, compute.state === "running" ? `runs, ${compute.uri}` : "stopped");
  });
}

async function checkBranches(client: PageserverClient): Promise<CheckResult> {
  const branches = await client.listBranches();
  const broken = branches.filter((branch) => branch.error !== null);
  if (broken.length === 0) return ok("branches", `${branches.length}, none broken`);
  const message = broken.map((branch) => `${branch.name}: ${branch.error}`).join("; ");
  return { name: "branches", state: "failed", message, hint: "`neon logs` shows what happened before." };
}
