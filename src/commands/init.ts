import { resolve } from "node:path";
import { string as stringArg } from "@oclif/core/args";
import { integer, string as stringFlag } from "@oclif/core/flags";
import { formatLsn } from "../base/lsn.ts";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";
import { paint } from "./shared/output.ts";
import { walSegmentFlag } from "./shared/wal-segment-flag.ts";

const DEFAULT_PG_VERSION = 17;
const DEFAULT_WAL_SEGMENT_MB = 16;

export default class Init extends BaseCommand {
  static override summary = "Create a repository with an empty database as branch `main`.";
  static override description =
    "Makes DIR/.neon, runs initdb, loads the result into a new pageserver and leaves that running. " +
    "When it is interrupted, nothing is left or the next `neon init` clears it.\n\n" +
    "Side effects: writes DIR/.neon, starts the pageserver on a free port of 127.0.0.1 (9898 if possible).";
  static override examples = [
    "<%= config.bin %> init",
    "<%= config.bin %> init shop && cd shop",
    "<%= config.bin %> init --pg-version 16",
    "<%= config.bin %> init --pg-bin /usr/lib/postgresql/17/bin",
  ];
  static override args = {
    dir: stringArg({ description: "Where; the current directory unless given. Created if missing." }),
  };
  static override flags = {
    "pg-version": integer({
      summary: "Major version of Postgres, 14 to 18.",
      helpValue: "N",
      default: DEFAULT_PG_VERSION,
      min: 14,
      max: 18,
    }),
    "pg-bin": stringFlag({
      summary: "Directory with the Postgres programs to use, instead of the embedded ones.",
      helpValue: "DIR",
    }),
    "wal-segsize": walSegmentFlag({
      summary: "Size of a WAL segment in megabytes, a power of two from 1 to 1024. Cannot be changed later.",
      helpValue: "MB",
      default: DEFAULT_WAL_SEGMENT_MB,
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Init);
    const { parseTenantId, newTenantId } = await import("../base/ids.ts");
    const { randomBytes } = await import("node:crypto");
    const { rootOf } = await import("../repository/repository.ts");
    const { MAIN_BRANCH } = await import("../compute/fresh-cluster.ts");
    const { initRepository } = await import("../compute/init-repository.ts");
    const { Progress } = await import("./shared/progress.ts");

    const given = flags["tenant-id"];
    const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    using progress = new Progress({ silent: this.jsonEnabled() });
    const { repository, binaries, imported } = await initRepository({
      root: rootOf(process.cwd(), args.dir ?? flags.repo ?? "."),
      pgVersion: flags["pg-version"],
      pgBin: flags["pg-bin"] === undefined ? undefined : resolve(flags["pg-bin"]),
      walSegmentMb: flags["wal-segsize"],
      tenantId: given === undefined ? newTenantId(random) : parseTenantId(given),
      signal: this.interruption.signal,
      onStep: (step) => progress.begin(step),
      onBytes: (sizeBytes) => progress.advance(sizeBytes),
    });
    progress.end();

    const { defaultTenantId, pageserver } = repository.config;
    this.print(`Initialized a neon repository in ${repository.directory}`);
    this.say(
      `Branch ${MAIN_BRANCH} at ${formatLsn(imported.lsn)}, Postgres ${binaries.version} (${binaries.source}), ` +
        `pageserver at http://${pageserver.listen}.\n\n` +
        "Next:\n" +
        nextStep("neon pg create main", "start a Postgres on main, print its connection string") +
        nextStep("neon branch dev", "fork main as it is at that moment") +
        nextStep("neon status", "what is running and how far it is"),
    );
    return {
      repository: repository.directory,
      tenant_id: defaultTenantId,
      branch: MAIN_BRANCH,
      timeline_id: imported.timelineId,
      lsn: formatLsn(imported.lsn),
      pg_version: flags["pg-version"],
      wal_segment_mb: flags["wal-segsize"],
      pageserver: `http://${pageserver.listen}`,
    };
  }
}

function nextStep(command: string, purpose: string): string {
  return `  ${paint("bold", command.padEnd(22), process.stderr)} ${purpose}\n`;
}
