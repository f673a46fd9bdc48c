import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import type { JsonFields } from "./shared/base-command.ts";
import { TransferCommand } from "./shared/transfer-command.ts";

export default class Pull extends TransferCommand {
  static override summary = "Get a branch from an origin: what is missing here, and nothing else.";
  static override description =
    "ORIGIN is a name made by `neon origin add`; the branch has the same name there unless :OTHER gives another. Without " +
    "ORIGIN it comes from its upstream, which the first push or pull sets.\n\n" +
    "A branch that is missing here is created, with the history that it shares with its ancestors; one that is behind is " +
    "brought up to the end of the other. If it is ahead, has diverged, or a compute writes to it here, nothing happens and " +
    "the exit code is 5; 6 if the origin does not answer or refuses. A stopped compute on the branch is rebuilt when it " +
    "is started again.\n\n" +
    "The branch here changes at the very end and at once. What was interrupted goes on when the same command is run " +
    "again. With --json, lines of progress go to stderr: {event, phase, bytes, total}.";
  static override examples = [
    { description: "The branch of the same name", command: "<%= config.bin %> pull main staging" },
    { description: "Under another name here", command: "<%= config.bin %> pull theirs staging:main" },
    { description: "From where it came the last time", command: "<%= config.bin %> pull main" },
    { description: "What would be got", command: "<%= config.bin %> pull main staging --dry-run" },
  ];
  static override args = {
    branch: stringArg({ description: "The branch here; created if missing.", required: true }),
    origin: stringArg({ description: "ORIGIN[:OTHER]; the branch's upstream unless given." }),
  };
  static override flags = {
    "dry-run": boolean({ default: false, char: "n", summary: "Say what would be got; get nothing." }),
    "set-upstream": boolean({
      default: false,
      char: "u",
      summary: "Make ORIGIN[:OTHER] the upstream, even if there is one already.",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Pull);
    return this.transfer("pull", flags, {
      ...args,
      dryRun: flags["dry-run"],
      setUpstream: flags["set-upstream"],
    });
  }
}
