// Norms over rows, a block a row. What is added to the residual stream is added on the way, so that the stream is read once.
#include "device.cuh"


// hidden += delta (where there is one); y = hidden / sqrt(mean(hidden²) + eps) * weight.
template <typename T>
DEVICE void add_rms_norm(T* hidden, const T* delta, const float* weight, T* y, int n, float eps) {
    u64 start = static_cast<u64>(blockIdx.x) * n;
    hidden += start;
    y += start;
    if (delta) delta += start;
    float squares = 0.0f;
    if (n % Pack<T>::LEN == 0) {
        for (int i = threadIdx.x * Pack<T>::LEN; i < n; i += blockDim.x * Pack<T>::LEN) {
            Pack<T> x = load_pack(hidden + i);
            if (delta) {
                Pack<T> more = load_pack(delta + i);
                for (int j = 0; j < Pack<T>::LEN; j++) x.at[j] = from_float<T>(to_float(x.at[j]) + to_float(more.at[j]));
                store_pack(hidden + i, x);
            }
            for (int j = 0; j < Pack<T>::LEN; j++) squares += to_float(x.at[j]) * to_float(x.at[j]);
        }
        float scale = 1.0f / sqrtf(block_sum(squares) / n + eps);
        for (int i = threadIdx.x * Pack<T>::LEN; i < n; i += blockDim.x * Pack<T>::LEN) {
            Pack<T> x = load_pack(hidden + i);
            for (int j = 0; j < Pack<T>::LEN; j++) x.at[j] = from_float<T>(to_float(x.at[j]) * scale * weight[i + j]);
            store_pack(y + i, x);
        }
        return;
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float x = to_float(hidden[i]);
        if (delta) {
            hidden[i] = from_float<T>(x + to_float(delta[i]));
            x = to_float(hidden[i]);
        }
        squares += x * x;
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = from_float<T>(to_float(hidden[i]) * scale * weight[i]);
}

template <typename T>
DEVICE void layer_norm(const T* x, const float* weight, const float* bias, T* y, int n, float eps) {
    u64 start = static_cast<u64>(blockIdx.x) * n;
    x += start;
    y += start;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += to_float(x[i]);
    float mean = block_sum(sum) / n;
    // Of the differences, not of the squares less the squared mean: that would lose the digits of rows far from zero.
    float squares = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float difference = to_float(x[i]) - mean;
        squares += difference * difference;
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        y[i] = from_float<T>((to_float(x[i]) - mean) * scale * weight[i] + bias[i]);
}

#define NORMS(NAME, T)                                                                                                          \
    KERNEL BOUNDS(1024) add_rms_norm_##NAME(T* hidden, const T* delta, const float* weight, T* y, int n, float eps) {           \
        add_rms_norm<T>(hidden, delta, weight, y, n, eps);                                                                      \
    }                                                                                                                           \
    EXPORT(add_rms_norm_##NAME)                                                                                                 \
    KERNEL BOUNDS(1024) layer_norm_##NAME(const T* x, const float* weight, const float* bias, T* y, int n, float eps) {         \
        layer_norm<T>(x, weight, bias, y, n, eps);                                                                              \
    }                                                                                                                           \
    EXPORT(layer_norm_##NAME)
FOR_TYPES(NORMS)
