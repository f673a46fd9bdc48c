import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import type { JsonFields } from "./shared/base-command.ts";
import { TransferCommand } from "./shared/transfer-command.ts";

export default class Push extends TransferCommand {
  static override summary = "Send a branch to an origin: what is missing there, and nothing else.";
  static override description =
    "ORIGIN is a name made by `neon origin add`; the branch gets the same name there unless :OTHER gives another. Without " +
    "ORIGIN it goes to its upstream, which the first push or pull sets.\n\n" +
    "A branch that is missing there is created, with the history that it shares with its ancestors; one that is behind is " +
    "brought up to this one's end, every commit that has returned included. If it is ahead, has diverged, or a compute " +
    "writes to it there, nothing happens and the exit code is 5; 6 if the origin does not answer or refuses.\n\n" +
    "The branch there changes at the very end and at once. What was interrupted goes on when the same command is run " +
    "again. With --json, lines of progress go to stderr: {event, phase, bytes, total}.";
  static override examples = [
    { description: "To the branch of the same name", command: "<%= config.bin %> push main staging" },
    { description: "Under another name", command: "<%= config.bin %> push main staging:from-ada" },
    { description: "To where it went the last time", command: "<%= config.bin %> push main" },
    { description: "What would be sent", command: "<%= config.bin %> push main staging --dry-run" },
  ];
  static override args = {
    branch: stringArg({ description: "The branch here.", required: true }),
    origin: stringArg({ description: "ORIGIN[:OTHER]; the branch's upstream unless given." }),
  };
  static override flags = {
    "dry-run": boolean({ default: false, char: "n", summary: "Say what would be sent; send nothing." }),
    "set-upstream": boolean({
      default: false,
      char: "u",
      summary: "Make ORIGIN[:OTHER] the upstream, even if there is one already.",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Push);
    return this.transfer("push", flags, {
      ...args,
      dryRun: flags["dry-run"],
      setUpstream: flags["set-upstream"],
    });
  }
}
