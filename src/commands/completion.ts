import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { BaseCommand, type CommonFlags, type JsonFields } from "./shared/base-command.ts";
import type { NameSources } from "./shared/completions.ts";

/** How long the tabulator key waits for the names of branches, in milliseconds. */
const NAMES_TIMEOUT_MS = 500;

export default class Completion extends BaseCommand {
  static override summary = "Print the completion script for bash, zsh or fish.";
  static override description =
    "Completes commands, flags and the names of branches, computes and settings. SHELL defaults to that of $SHELL.";
  static override examples = [
    { description: "bash, in ~/.bashrc", command: 'eval "$(<%= config.bin %> completion bash)"' },
    { description: "zsh, in ~/.zshrc after compinit", command: 'eval "$(<%= config.bin %> completion zsh)"' },
    {
      description: "fish",
      command: "<%= config.bin %> completion fish > ~/.config/fish/completions/neon.fish",
    },
  ];
  static override strict = false;
  static override args = { shell: stringArg({ description: "bash, zsh or fish." }) };
  static override flags = {
    words: boolean({ default: false, hidden: true, summary: "Print what can follow the words after `--`." }),
  };

  async run(): Promise<JsonFields> {
    const { args, argv, flags } = await this.parse(Completion);
    const { COMPLETION_SCRIPTS, completions } = await import("./shared/completions.ts");
    if (flags.words) {
      const found = await completions(argv.map(String), this.config.commands, this.nameSources(flags));
      if (found.length > 0) this.print(found.join("\n"));
      return { words: found };
    }
    const shell = args.shell ?? process.env["SHELL"]?.split("/").at(-1) ?? "";
    if (shell !== "bash" && shell !== "zsh" && shell !== "fish") {
      throw new NeonError(ErrorCode.Usage, `no completion for the shell "${shell}"`, {
        hint: "There is bash, zsh and fish.",
      });
    }
    this.print(COMPLETION_SCRIPTS[shell]);
    return { shell, script: COMPLETION_SCRIPTS[shell] };
  }

  /** Where something is missing (no repository, no pageserver) there are just no names. */
  private nameSources(flags: CommonFlags): NameSources {
    const orNone = async (names: () => Promise<string[]>): Promise<string[]> => {
      try {
        return await names();
      } catch {
        return [];
      }
    };
    return {
      branches: () =>
        orNone(async () => {
          const repository = await this.findRepository(flags);
          const client = await this.pageserverOf(repository, flags, { timeoutMs: NAMES_TIMEOUT_MS });
          return (await client.listBranches()).map((branch) => branch.name);
        }),
      computes: () =>
        orNone(async () => {
          const repository = await this.findRepository(flags);
          const { computesOf } = await import("./shared/computes.ts");
          const computes = computesOf(repository, await this.pageserverOf(repository, flags));
          return (await computes.list()).map((compute) => compute.name);
        }),
      origins: () => orNone(async () => Object.keys((await this.findRepository(flags)).config.origins)),
      tenants: () =>
        orNone(async () => {
          const repository = await this.findRepository(flags);
          const client = await this.pageserverOf(repository, flags, { timeoutMs: NAMES_TIMEOUT_MS });
          return (await client.listTenants()).map((tenant) => tenant.tenantId);
        }),
      settings: () =>
        orNone(async () => {
          const repository = await this.findRepository(flags);
          const { shownSettings } = await import("./shared/settings-view.ts");
          return shownSettings(repository.settings, {}).map((setting) => setting.key);
        }),
    };
  }
}
