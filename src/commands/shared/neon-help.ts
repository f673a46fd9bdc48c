/** Help: oclif's, with what a newcomer needs first and the exit codes on the first page. */
import { CommandHelp, Help } from "@oclif/core/help";

const GETTING_STARTED = `$ neon init                        a repository with an empty database, branch main
$ neon pg create main              a Postgres on it; prints its connection string
$ neon branch dev                  forks main as it is now, in no time at any size
$ neon pg create dev               a second Postgres, at the same time
$ neon branch before main@10m      main as it was ten minutes ago
$ neon push main ORIGIN            sends what is missing there (neon origin add, neon clone)`;

const ENVIRONMENT = `NEON_REPO_DIR  the repository, instead of searching upward
NEON_PG_BIN    directory with the Postgres programs
NEON_DEBUG     1 shows where an error comes from
NO_COLOR       no colours`;

const EXIT_CODES = `0 done   1 failed   2 usage   3 not found   4 exists   5 conflict   6 unreachable or refused
7 corruption found   8 could not check   9 port, disk or permission   10 Postgres failed
11 timed out   12 declined   127 unknown command   130 interrupted`;

/** The summary stands at the top already; oclif would repeat it here. */
class NeonCommandHelp extends CommandHelp {
  protected override description(): string | undefined {
    const { description } = this.command;
    return description === undefined ? undefined : this.wrap(description);
  }
}

export class NeonHelp extends Help {
  protected override CommandHelpClass = NeonCommandHelp;

  override formatRoot(): string {
    return [super.formatRoot(), this.section("GETTING STARTED", GETTING_STARTED)].join("\n\n");
  }

  override async showRootHelp(): Promise<void> {
    await super.showRootHelp();
    this.log(
      [
        this.section("ENVIRONMENT", ENVIRONMENT),
        this.section("EXIT CODES", EXIT_CODES),
        "Every command has --help and --json. `neon pg --help` lists the commands for computes.",
      ].join("\n\n"),
    );
  }
}
