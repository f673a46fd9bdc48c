import { string as stringArg } from "@oclif/core/args";
import { boolean, integer, option, string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import {
  type PageserverUri,
  formatPageserverUri,
  isOnThisMachine,
  parsePageserverUri,
} from "../../client/pageserver-uri.ts";
import type { JsonFields } from "../shared/base-command.ts";
import { PageserverCommand, type PageserverFlags } from "../shared/pageserver-command.ts";

export default class PgCreate extends PageserverCommand {
  static override summary = "Create a Postgres on a branch and print its connection string.";
  static override description =
    "At the end of the branch it is read-write (one per branch); with --lsn it shows that moment and is read-only. " +
    "The connection string goes to stdout, everything else to stderr.\n\n" +
    "commit=remote: COMMIT returns when the pageserver has the WAL on disk; the compute itself may be lost at any " +
    "time. commit=local: the compute keeps its data safe itself and works on while the pageserver is away.\n\n" +
    "With --pageserver the branch is one of another pageserver, and the compute belongs to this repository: read-only " +
    "from anywhere, read-write where that pageserver runs on this machine, because it has to reach the Postgres, and as a user " +
    "of all its tenants.\n\n" +
    "Side effects: writes .neon/computes/NAME, starts Postgres on a free port of 127.0.0.1 from 55432 on.";
  static override examples = [
    { description: "On branch main", command: "<%= config.bin %> pg create main" },
    {
      description: "A past moment, read-only",
      command: "<%= config.bin %> pg create look --branch main --lsn 10m",
    },
    { description: "Connect at once", command: 'psql "$(<%= config.bin %> pg create dev)"' },
  ];
  static override args = {
    name: stringArg({ description: "Name of the compute; that of the branch unless given." }),
  };
  static override flags = {
    branch: stringFlag({ char: "b", summary: "Branch; NAME unless given, or main.", helpValue: "BRANCH" }),
    lsn: stringFlag({
      summary: "Read-only at a past moment: an LSN, a time, an age (10m), or a POINT as for `neon branch`.",
      helpValue: "POINT",
    }),
    port: integer({ char: "p", summary: "TCP port; the next free one unless given.", helpValue: "PORT" }),
    commit: option({
      summary: "Who makes COMMIT durable (default: remote).",
      options: ["remote", "local"] as const,
    })(),
    "no-start": boolean({ default: false, summary: "Create it without starting it." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgCreate);
    const repository = await this.findRepository(flags);
    const { client, uri } = await this.pageserverFor(flags);
    const { checkRefName } = await import("../../repository/ref-name.ts");
    const { parsePointOn } = await import("../../repository/point.ts");
    const { branchOfPoint, lsnOfPoint } = await import("../shared/moment.ts");
    const { computesOf, computeJson, describeCompute } = await import("../shared/computes.ts");
    const { Progress } = await import("../shared/progress.ts");

    const defaultBranch = flags.branch ?? args.name ?? "main";
    const source = { kind: "branch", name: defaultBranch } as const;
    const point =
      flags.lsn === undefined
        ? ({ source, at: { kind: "end" } } as const)
        : parsePointOn(flags.lsn, source, Date.now());
    if (args.name !== undefined) checkRefName(args.name, "compute");
    const branch = await branchOfPoint(client, point);
    if (flags.branch !== undefined && flags.branch !== branch.name) {
      throw new NeonError(ErrorCode.Usage, `--branch is ${flags.branch}, but --lsn names ${branch.name}`, {
        hint: "Name the branch in one place.",
      });
    }
    const lsn = await lsnOfPoint(client, branch, point);
    // The end of the branch, told as a point, is where it writes as well.
    if (uri && lsn === undefined) refuseWriterElsewhere(uri);
    const name = args.name ?? branch.name;
    const setting = repository.config.computes[name];
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin(`creating compute ${name}`);
    const compute = await computesOf(repository, client, progress, {
      pageserver: uri && formatPageserverUri(uri),
    }).create({
      name,
      branch: branch.name,
      ...(lsn === undefined ? {} : { point: { lsn } }),
      port: flags.port ?? setting?.port,
      commit: flags.commit ?? setting?.commit ?? "remote",
      start: !flags["no-start"],
    });
    progress.end();
    this.say(describeCompute(compute));
    this.print(compute.uri);
    if (flags["no-start"]) this.say(`Start it with \`neon pg start ${name}\`.`);
    return computeJson(compute);
  }

  /** Refused before anybody is asked where that can be told from the URI. */
  private async pageserverFor(
    flags: PageserverFlags & { readonly lsn?: string | undefined },
  ): Promise<{ client: PageserverClient; uri?: PageserverUri }> {
    const { pageserver } = flags;
    if (pageserver === undefined) return this.connect(flags);
    const refuse = (uri: PageserverUri): void => {
      if (flags.lsn === undefined) refuseWriterElsewhere(uri);
    };
    if (pageserver.includes("://")) refuse(parsePageserverUri(pageserver));
    const found = await this.connectElsewhere(flags, pageserver);
    refuse(found.uri);
    return found;
  }
}

/** Throws `usage` where the pageserver could not reach what writes. */
function refuseWriterElsewhere(uri: PageserverUri): void {
  if (isOnThisMachine(uri)) return;
  throw new NeonError(
    ErrorCode.Usage,
    `the pageserver at ${uri.baseUrl} cannot reach a Postgres on this machine, so none can write to its branches`,
    {
      hint: "For a read-only one add --lsn POINT. To write, get the branch: `neon clone`, or `neon origin add` and `neon pull`.",
    },
  );
}
