#include "bitlab/report/page.h"

#include <fmt/core.h>

namespace bitlab::report {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2430; --soft: #68727f; --line: #d9dee5; --bar: #3b7dd8; --roof: #c2573a; --page: #fff;
  --c0: #3b7dd8; --c1: #c2573a; --c2: #2f8f5b; --c3: #8b5cc7; --c4: #b58900; --c5: #0f8b8d; --c6: #c2417f; --c7: #68727f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9ef; --soft: #9aa5b1; --line: #38414c; --bar: #5b9bf0; --roof: #e88a6a; --page: #14191f;
  --c0: #5b9bf0; --c1: #e88a6a; --c2: #5fc08a; --c3: #b48eea; --c4: #d9b64a; --c5: #4cc2c4; --c6: #ea7fb1; --c7: #9aa5b1; } }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1.5rem; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p { color: var(--soft); margin: .25rem 0 .75rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; } dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.15rem; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); } .roof { stroke: var(--roof); stroke-width: 1.5; fill: none; } .point { fill: var(--bar); fill-opacity: .65; stroke: var(--bar); }
.live { fill: var(--bar); } .scratch { fill: var(--soft); fill-opacity: .5; } .bound { stroke: var(--roof); stroke-dasharray: 5 4; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { cursor: pointer; user-select: none; } th[aria-sort=ascending]::after { content: " \2191"; } th[aria-sort=descending]::after { content: " \2193"; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.time { min-width: 9rem; }
.bar { display: inline-block; height: .7em; background: var(--bar); border-radius: 2px; margin-right: .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem 2rem; } figure { margin: 0; } figcaption { font-size: .95rem; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .faint { opacity: .35; stroke-width: 1; } .key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em; }
table.matrix, table.compact { width: auto; } table.compact th:not(:first-child) { text-align: right; } table.matrix td { text-align: right; background: color-mix(in srgb, var(--bar) calc(var(--share) * 80%), transparent); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 4px; font-size: .85rem; }
)";

// Sorts a table by the column whose heading is clicked, numbers by data-value; a second click turns the order.
constexpr std::string_view kScript = R"(
for (const heading of document.querySelectorAll('thead th')) heading.addEventListener('click', () => {
  const table = heading.closest('table'), body = table.tBodies[0], column = heading.cellIndex;
  const down = heading.getAttribute('aria-sort') !== 'descending', sign = down ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const key = row => row.cells[column].dataset.value;
  const compare = (a, b) => key(a) === undefined ? a.cells[column].textContent.localeCompare(b.cells[column].textContent) : key(a) - key(b);
  body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
});
)";

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string embedded(std::string json) {
  for (size_t at = 0; (at = json.find("</", at)) != std::string::npos; at += 3) json.replace(at, 2, "<\\/");
  return json;
}

std::string page(std::string_view title, std::string_view body) {
  const std::string heading = escaped(title);
  std::string text =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>" +
      heading + "</title>\n<style>";
  text.append(kStyle).append("</style>\n</head>\n<body>\n<h1>").append(heading).append("</h1>\n").append(body);
  return text.append("<script>").append(kScript).append("</script>\n</body>\n</html>\n");
}

std::string fact_list(std::span<const Fact> facts) {
  std::string text = "<dl>\n";
  for (const Fact& fact : facts)
    text += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escaped(fact.name), escaped(fact.text));
  return text + "</dl>\n";
}

}  // namespace bitlab::report
