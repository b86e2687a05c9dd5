// Score images with a model file and without this toolkit, through ONNX Runtime's C API.
//
// cc -std=c11 -O2 -I ORT/include score.c -o score -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib
// ./score MODEL.onnx IMAGE.ppm...
//
// ORT is the folder of an ONNX Runtime release. Images are binary PPM (P6), turned upright and resized to
// the size that the model takes, by the rule in its metadata cac.input.

#define _POSIX_C_SOURCE 200112L  // setenv

#include <ctype.h>
#include <onnxruntime_c_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const OrtApi *ort;

#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

static void check(OrtStatus *status, const char *what) {
  if (!status) return;
  fprintf(stderr, "%s: %s\n", what, ort->GetErrorMessage(status));
  ort->ReleaseStatus(status);
  exit(1);
}

// The value of four hexadecimal digits; -1 if there are none.
static long code_unit(const char *text) {
  long value = 0;
  for (int i = 0; i < 4; i++) {
    int c = tolower((unsigned char)text[i]);
    if (!isxdigit(c)) return -1;
    value = 16 * value + (isdigit(c) ? c - '0' : c - 'a' + 10);
  }
  return value;
}

// Reads \uXXXX, or two of them, from after the first u, and writes the character in UTF-8. Returns the rest of the
// text; NULL if it is no character.
static char *read_escape(char *text, char **out) {
  long c = code_unit(text), low = -1;
  if (c < 1) return NULL;
  text += 4;
  if (c >= 0xd800 && c < 0xe000) {
    if (c < 0xdc00 && text[0] == '\\' && text[1] == 'u') low = code_unit(text + 2);
    if (low < 0xdc00 || low > 0xdfff) return NULL;
    c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    text += 6;
  }
  int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
  *(*out)++ = (char)(first[more] | (c >> (6 * more)));
  while (more--) *(*out)++ = (char)(0x80 | ((c >> (6 * more)) & 0x3f));
  return text;
}

// Turns ["a", "b"] into a\0b\0 and returns the number of strings, 0 if it is no such list.
static int64_t unpack(char *text) {
  static const char space[] = " \t\r\n", escapes[] = "bfnrt", values[] = "\b\f\n\r\t";
  char *out = text;
  text += strspn(text, space);
  if (*text++ != '[') return 0;
  for (int64_t count = 1;; count++) {
    text += strspn(text, space);
    if (*text++ != '"') return 0;
    while (*text != '"') {
      bool is_escaped = *text == '\\';
      text += is_escaped;
      if (!*text) return 0;
      if (is_escaped && *text == 'u') {
        if (!(text = read_escape(text + 1, &out))) return 0;
        continue;
      }
      const char *named = is_escaped ? strchr(escapes, *text) : NULL;
      *out++ = named ? values[named - escapes] : *text;
      text++;
    }
    *out++ = '\0';
    text++;
    text += strspn(text, space);
    if (*text == ']') return count;
    if (*text++ != ',') return 0;
  }
}

// Reads a number of a PPM header and the character after it; -1 if there is none.
static long number(FILE *file) {
  int c = getc(file);
  for (bool comment = false; isspace(c) || c == '#' || (comment && c != EOF); c = getc(file)) {
    if (c == '#' || c == '\n') comment = c == '#';
  }
  long value = isdigit(c) ? 0 : -1;
  for (; isdigit(c) && value < 100000; c = getc(file)) value = value * 10 + c - '0';
  return isspace(c) ? value : -1;
}

// Fills [3, height, width] with the image's red, green and blue in 0..=1.
static void read_image(const char *path, int64_t height, int64_t width, float *planes) {
  FILE *file = fopen(path, "rb");
  if (!file) FAIL("%s: cannot be opened", path);
  if (getc(file) != 'P' || getc(file) != '6') FAIL("%s: no binary PPM", path);
  long columns = number(file), rows = number(file), maximum = number(file);
  if (columns < 1 || rows < 1 || maximum != 255) FAIL("%s: no binary PPM with values to 255", path);
  if (columns != width || rows != height) {
    FAIL("%s: %ldx%ld pixels, the model takes %dx%d", path, columns, rows, (int)width, (int)height);
  }
  for (int64_t pixel = 0; pixel < height * width; pixel++) {
    for (int64_t colour = 0; colour < 3; colour++) {
      int value = getc(file);
      if (value == EOF) FAIL("%s: ends too early", path);
      planes[colour * height * width + pixel] = (float)value / 255;
    }
  }
  fclose(file);
}

static bool has_output(OrtSession *session, OrtAllocator *allocator, const char *wanted) {
  size_t count;
  bool found = false;
  check(ort->SessionGetOutputCount(session, &count), "outputs");
  for (size_t k = 0; k < count; k++) {
    char *name;
    check(ort->SessionGetOutputName(session, k, allocator, &name), "outputs");
    found = found || !strcmp(name, wanted);
    check(ort->AllocatorFree(allocator, name), "outputs");
  }
  return found;
}

// The one value of an output.
static const void *value_of(OrtValue *output, ONNXTensorElementDataType expected) {
  OrtTensorTypeAndShapeInfo *info;
  ONNXTensorElementDataType type;
  size_t count;
  void *data;
  check(ort->GetTensorTypeAndShape(output, &info), "outputs");
  check(ort->GetTensorElementType(info, &type), "outputs");
  check(ort->GetTensorShapeElementCount(info, &count), "outputs");
  ort->ReleaseTensorTypeAndShapeInfo(info);
  if (type != expected || count != 1) FAIL("an output is no number, or several");
  check(ort->GetTensorMutableData(output, &data), "outputs");
  return data;
}

int main(int argc, char **argv) {
  if (argc < 3) FAIL("usage: %s MODEL.onnx IMAGE.ppm...", argv[0]);
  const char *path = argv[1];
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) FAIL("ONNX Runtime %s is older than the header", OrtGetApiBase()->GetVersionString());
  // Without these, ONNX Runtime sends data about the model and the machine to Microsoft.
#ifndef _WIN32
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
#endif
  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  OrtAllocator *allocator;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "score", &env), "ONNX Runtime");
  check(ort->DisableTelemetryEvents(env), "ONNX Runtime");
  check(ort->CreateSessionOptions(&options), "ONNX Runtime");
  check(ort->GetAllocatorWithDefaultOptions(&allocator), "ONNX Runtime");
  check(ort->CreateSession(env, path, options, &session), path);

  OrtModelMetadata *metadata;
  char *version, *classes;
  check(ort->SessionGetModelMetadata(session, &metadata), path);
  check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "cac.format_version", &version), path);
  if (!version) FAIL("%s: not a model file of this toolkit", path);
  if (atoi(version) > 2) FAIL("%s: its format is newer than this program", path);
  check(ort->AllocatorFree(allocator, version), "ONNX Runtime");
  check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "cac.classes", &classes), path);
  int64_t class_count = classes ? unpack(classes) : 0;
  if (!class_count) FAIL("%s: no list of classes in its metadata", path);

  OrtTypeInfo *type;
  const OrtTensorTypeAndShapeInfo *info;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  int64_t shape[4] = {0};
  check(ort->SessionGetInputTypeInfo(session, 0, &type), path);
  check(ort->CastTypeInfoToTensorInfo(type, &info), path);
  if (info) check(ort->GetTensorElementType(info, &element), path);
  if (info) check(ort->GetDimensionsCount(info, &rank), path);
  if (rank == 4) check(ort->GetDimensions(info, shape, rank), path);
  ort->ReleaseTypeInfo(type);
  int64_t height = shape[2], width = shape[3];
  bool has_size = shape[1] == 3 && height > 0 && height < 10000 && width > 0 && width < 10000;
  if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || !has_size || shape[0] > 1) {
    FAIL("%s: does not take float32 [N, 3, H, W], or only with a fixed N above 1", path);
  }
  shape[0] = 1;

  const char *inputs[] = {"images"}, *outputs[] = {"score", "label", "unknown", "p_value"};
  // Not every file has p-values.
  size_t wanted = has_output(session, allocator, "p_value") ? 4 : 3;
  size_t size = (size_t)(3 * height * width) * sizeof(float);
  float *planes = malloc(size);
  if (!planes) FAIL("no memory left");
  OrtMemoryInfo *memory;
  OrtValue *images, *results[4] = {NULL};
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "ONNX Runtime");
  check(ort->CreateTensorWithDataAsOrtValue(memory, planes, size, shape, 4, element, &images), "images");
  for (int i = 2; i < argc; i++) {
    read_image(argv[i], height, width, planes);
    check(ort->Run(session, NULL, inputs, (const OrtValue *const *)&images, 1, outputs, wanted, results), argv[i]);
    float score = *(const float *)value_of(results[0], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    int64_t label = *(const int64_t *)value_of(results[1], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
    bool unknown = *(const bool *)value_of(results[2], ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL);
    if (label < 0 || label >= class_count) FAIL("%s: class %lld has no name", argv[i], (long long)label);
    const char *name = classes;
    while (label--) name += strlen(name) + 1;
    printf("%s\t%s\t%.6g", argv[i], unknown ? "unknown" : name, score);
    if (results[3]) printf("\t%.4f", *(const float *)value_of(results[3], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    putchar('\n');
    for (size_t k = 0; k < wanted; results[k++] = NULL) ort->ReleaseValue(results[k]);
  }

  if (fflush(stdout) || ferror(stdout)) FAIL("cannot write the results");
  ort->ReleaseValue(images);
  ort->ReleaseMemoryInfo(memory);
  free(planes);
  check(ort->AllocatorFree(allocator, classes), "ONNX Runtime");
  ort->ReleaseModelMetadata(metadata);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(env);
}
