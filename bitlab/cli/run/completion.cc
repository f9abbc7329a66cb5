// bitlab completion bash | zsh: a script that completes commands and options.
#include <memory>

#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"

namespace bitlab::cli {
namespace {

// "name) words ;;" for a command and those below it.
std::string cases(const CLI::App& app, const std::string& path) {
  std::string words;
  for (const CLI::App* command : app.get_subcommands(nullptr)) words += command->get_name() + " ";
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) words += "--" + name + " ";
  std::string text = fmt::format("    '{}') words='{}' ;;\n", path, words);
  for (const CLI::App* command : app.get_subcommands(nullptr))
    text += cases(*command, path.empty() ? command->get_name() : path + " " + command->get_name());
  return text;
}

// The path of commands typed so far decides what may follow; anything else completes to files.
std::string script(const CLI::App& app, bool zsh) {
  const std::string& name = app.get_name();
  const std::string function = "_" + (name == "bitlab" ? name : std::string("bitlab_run"));
  return fmt::format(
      "{}{}() {{\n"
      "  local path='' words='' word\n"
      "  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n"
      "    [[ $word == -* || $word == */* || $word == *.* ]] || path=\"${{path:+$path }}$word\"\n"
      "  done\n"
      "  case \"$path\" in\n{}  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\") $(compgen -f -- "
      "\"${{COMP_WORDS[COMP_CWORD]}}\"))\n"
      "}}\n"
      "complete -o filenames -F {} {}\n",
      zsh ? "autoload -U bashcompinit && bashcompinit\n" : "", function, cases(app, ""), function, name);
}

}  // namespace

void add_completion(CLI::App& app, Action& action) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a script that completes commands and options in a shell");
  command->add_option("shell", *shell, "bash or zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  command->footer("Example:\n  source <(bitlab-run completion bash)");
  command->callback([shell, &app, &action] {
    action = [shell, &app]() -> Status {
      fmt::print("{}", script(app, *shell == "zsh"));
      return {};
    };
  });
}

}  // namespace bitlab::cli
