import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgDestroy extends BaseCommand {
  static override summary = "Remove a compute; its branch and data stay on the pageserver.";
  static override description =
    "A compute is disposable: `neon pg create` makes it again at the end of its branch. One that runs has to be " +
    "stopped first, or --force kills it.";
  static override examples = [
    "<%= config.bin %> pg destroy look",
    "<%= config.bin %> pg destroy dev --force",
  ];
  static override args = { name: stringArg({ description: "Name of the compute.", required: true }) };
  static override flags = {
    force: boolean({ default: false, char: "f", summary: "Kill it if it runs." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgDestroy);
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("../shared/computes.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const computes = computesOf(repository, await this.pageserverOf(repository, flags), progress);
    const compute = await computes.get(args.name);
    progress.begin(`removing compute ${args.name}`);
    await computes.destroy(args.name, { force: flags.force });
    progress.end();
    this.print(`Removed compute ${args.name}`);
    this.say(
      `Branch ${compute.branch} is as before. Again: neon pg create ${args.name} --branch ${compute.branch}`,
    );
    return { name: args.name, branch: compute.branch };
  }
}
