// Compiled with -fno-exceptions: functions return a status, or a Value that has one.
#include <cstdio>
#include <fastbn/fastbn.hpp>
#include <vector>

int main() {
  fastbn::Dense d;
  d.rows = 2;
  d.in_features = 3;
  d.out_features = 2;
  d.activation = FBN_RELU;
  const std::vector<float> x = {1, 2, 3, 4, 5, 6}, kernel = {1, 0, 0, 1, 1, 1};
  const float bias[] = {10, -20};
  std::vector<float> y(4);
  if (fastbn::dense_forward(d, x, kernel, bias, y) != FBN_OK) return 1;
  std::printf("%g %g %g %g\n", double{y[0]}, double{y[1]}, double{y[2]}, double{y[3]});

  // In memory of its own, as large as the library asks for.
  const auto call = [&](const fastbn::Exec& exec) { return fastbn::dense_forward(d, x, kernel, bias, y, exec); };
  fastbn::Value<size_t> needed = fastbn::workspace_size(fastbn::Exec(2), call);
  if (!needed) return 1;
  fastbn::Workspace workspace(*needed);
  if (call(fastbn::Exec(2).use(workspace)) != FBN_OK) return 1;

  fastbn::Value<fastbn::Graph> graph = fastbn::Graph::create();
  if (!graph) return 1;
  const auto input = graph->add(fastbn::layers::input("input", {3}));
  if (!input) return 1;
  const fastbn::Value<int32_t> wrong = graph->add(fastbn::layers::dense("dense", -1));
  std::printf("%d %s\n", wrong.status(), fastbn::last_error());

  y.pop_back();  // what a span knows is refused before the C interface is asked
  const fbn_status status = fastbn::dense_forward(d, x, kernel, {}, y);
  std::printf("%d %s\n", status, fastbn::last_error());
  return status == FBN_INVALID_VALUE ? 0 : 1;
}
