/** Makes a fresh data directory with `initdb`: the first moment of a tenant's history. */
import { spawn } from "node:child_process";
import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import { versionByMajor } from "../postgres/versions/versions.ts";
import type { PgBinaries } from "./binaries.ts";
import { programEnvironment } from "./program-environment.ts";
import { type RunAs, checkExecutable, checkReachable, chooseRunAs } from "./run-as.ts";

/** Name of the bootstrap superuser. */
export const SUPERUSER = "postgres";

/** How much of initdb's last output goes into an error, characters. */
const OUTPUT_TAIL_MAX = 4000;

/**
 * Runs initdb on `directory`, which must not exist or be empty; its parent must exist. Under root the directory is
 * given to the unprivileged user that initdb runs as. The result is what a clean shutdown leaves behind. It is not
 * synced to disk: it is made to be imported and thrown away.
 * @param options.walSegmentMb size of a WAL segment in MiB, a power of two from 1 to 1024; 16 unless given.
 */
export async function initializeDataDirectory(
  binaries: PgBinaries,
  directory: string,
  options: { readonly runAs?: string | undefined; readonly walSegmentMb?: number | undefined } = {},
): Promise<void> {
  const user = chooseRunAs(options.runAs);
  const program = join(binaries.bindir, "initdb");
  checkExecutable(program, user);
  prepareDirectory(directory, user);
  const { code, output } = await runProgram(
    program,
    initdbArguments(binaries.major, directory, options.walSegmentMb),
    user,
  );
  if (code === 0) return;
  throw new NeonError(ErrorCode.Postgres, `initdb failed (${code}): ${output.trim()}`, {
    data: { directory, version: binaries.version },
  });
}

function initdbArguments(major: number, directory: string, walSegmentMb: number | undefined): string[] {
  return [
    ...(walSegmentMb === undefined ? [] : [`--wal-segsize=${walSegmentMb}`]),
    "--pgdata",
    directory,
    "--username",
    SUPERUSER,
    "--auth=trust",
    "--encoding=UTF8",
    // The order of text must be the same on every machine that a branch may be pushed to: an index built under
    // another machine's collation would be silently wrong.
    "--locale=C",
    "--no-sync",
    "--no-instructions",
    // The pageserver checks what it stores by itself; page checksums would add a full image to the WAL for hint bits.
    ...versionByMajor(major).initdbArguments,
  ];
}

function prepareDirectory(directory: string, user: RunAs | undefined): void {
  checkReachable(dirname(directory), user);
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    if (systemCode(error) !== "EEXIST") {
      throw new NeonError(ErrorCode.Resource, `cannot create ${directory}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    chmodSync(directory, 0o700);
  }
  if (user) chownSync(directory, user.uid, user.gid);
}

function runProgram(
  program: string,
  args: readonly string[],
  user: RunAs | undefined,
): Promise<{ code: number | string; output: string }> {
  return new Promise((settle, fail) => {
    const child = spawn(program, args, {
      cwd: "/",
      env: programEnvironment(),
      stdio: ["ignore", "pipe", "pipe"],
      ...(user ? { uid: user.uid, gid: user.gid } : {}),
    });
    let output = "";
    const keep = (chunk: string): void => {
      output = (output + chunk).slice(-OUTPUT_TAIL_MAX);
    };
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    child.on("error", (error) => {
      fail(new NeonError(ErrorCode.Postgres, `cannot run ${program}: ${error.message}`, { cause: error }));
    });
    child.on("close", (code, signal) => settle({ code: code ?? signal ?? "unknown", output }));
  });
}
