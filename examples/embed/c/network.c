/* A network with batch-norm, described, trained and read without Python in the process.
 *
 * network FILE trains 20 steps on points inside and outside of a ring and writes the weights before and after into
 * FILE, as float32, parameter by parameter. */
#include <fastbn/fastbn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 256, HIDDEN = 32, CLASSES = 2, STEPS = 20 };

static void check(fbn_status status) {
  if (status == FBN_OK) return;
  fprintf(stderr, "%s\n", fbn_last_error());
  exit(1);
}

static fbn_layer layer(fbn_layer_kind kind, const char* name) {
  fbn_layer l;
  memset(&l, 0, sizeof l);
  l.struct_size = sizeof l;
  l.kind = kind;
  l.name = name;
  return l;
}

/* Adds a layer behind the one before, if any. */
static int32_t add(fbn_graph* graph, fbn_layer l, int32_t before) {
  int32_t node = -1;
  if (before >= 0) {
    l.num_inputs = 1;
    l.inputs[0] = before;
  }
  check(fbn_graph_add(graph, &l, &node));
  return node;
}

static fbn_program* ring_program(void) {
  fbn_graph* graph = NULL;
  fbn_program* program = NULL;
  check(fbn_graph_create(&graph));

  fbn_layer input = layer(FBN_LAYER_INPUT, "points");
  input.rank = 1;
  input.shape[0] = 2;
  fbn_layer hidden = layer(FBN_LAYER_DENSE, "hidden");
  hidden.units = HIDDEN;
  fbn_layer norm = layer(FBN_LAYER_BATCH_NORM, "norm");
  norm.epsilon = 1e-3;
  norm.momentum = 0.9;
  norm.center = norm.scale = 1;
  fbn_layer relu = layer(FBN_LAYER_ACTIVATION, "relu");
  relu.activation = FBN_RELU;
  fbn_layer classes = layer(FBN_LAYER_DENSE, "classes");
  classes.units = CLASSES;
  classes.use_bias = 1;
  int32_t node = add(graph, input, -1);
  node = add(graph, hidden, node);
  node = add(graph, norm, node);
  node = add(graph, relu, node);
  node = add(graph, classes, node);

  fbn_program_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.max_batch = POINTS;
  options.seed = 7;
  options.loss = FBN_LOSS_SOFTMAX_CROSS_ENTROPY; /* the output is logits */
  options.labels_dtype = FBN_INT32;
  options.optimizer.kind = FBN_SGD;
  options.optimizer.learning_rate = 0.1;
  options.optimizer.momentum = 0.9;
  check(fbn_program_create(graph, node, &options, &program));
  fbn_graph_destroy(graph);
  return program;
}

static void write_parameters(const fbn_program* program, FILE* file) {
  for (int32_t p = 0; p < fbn_program_parameter_count(program); ++p) {
    int32_t rank = 0;
    int64_t shape[FBN_MAX_RANK], size = 1;
    check(fbn_program_parameter_info(program, p, &rank, shape, NULL));
    for (int32_t i = 0; i < rank; ++i) size *= shape[i];
    float* values = malloc((size_t)size * sizeof(float));
    if (values == NULL) abort();
    check(fbn_program_get(program, p, "value", values));
    if (fwrite(values, sizeof(float), (size_t)size, file) != (size_t)size) abort();
    free(values);
  }
}

int main(int argc, char** argv) {
  if (argc != 2) return fprintf(stderr, "usage: network FILE\n"), 2;
  FILE* file = fopen(argv[1], "wb");
  if (file == NULL) return fprintf(stderr, "cannot write %s\n", argv[1]), 1;

  static float x[POINTS][2];
  static int32_t y[POINTS];
  for (int i = 0; i < POINTS; ++i) {
    x[i][0] = (float)(i * 37 % 101) / 32.0f - 1.5625f;
    x[i][1] = (float)(i * 53 % 97) / 32.0f - 1.5f;
    y[i] = x[i][0] * x[i][0] + x[i][1] * x[i][1] < 1.5f;
  }

  fbn_program* program = ring_program();
  const float bias[CLASSES] = {0.25f, -0.25f};
  check(fbn_program_set_by_name(program, "classes/bias", "value", bias, CLASSES));
  write_parameters(program, file);

  fbn_step_result first, last;
  memset(&first, 0, sizeof first);
  first.struct_size = sizeof first;
  last = first;
  check(fbn_program_train(program, x, y, NULL, POINTS, &first, NULL));
  for (int step = 1; step < STEPS; ++step) check(fbn_program_train(program, x, y, NULL, POINTS, &last, NULL));
  write_parameters(program, file);
  fclose(file);

  float trained[CLASSES];
  check(fbn_program_get_by_name(program, "classes/bias", "value", trained, CLASSES));
  printf("loss %.4f -> %.4f, %lld of %d points right, classes/bias %.4f %.4f\n", first.loss, last.loss,
         (long long)last.correct, POINTS, (double)trained[0], (double)trained[1]);
  fbn_program_destroy(program);
  return 0;
}
