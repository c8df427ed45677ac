/* Times MPI_Allreduce of floats by sum, in place, as `ringfold bench allreduce` does: a sample is a batch of
 * at least 200 us, divided by its operations; of the slowest rank. One line of JSON a length. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double batch(float *values, int count, int operations) {
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    for (int i = 0; i < operations; i++)
        MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    double mine = (MPI_Wtime() - start) / operations, slowest;
    MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    for (int a = 2; a < argc; a++) {
        long bytes = atol(argv[a]);
        int count = (int)(bytes / sizeof(float));
        float *values = calloc(count ? count : 1, sizeof(float));
        batch(values, count, 3);
        double once = batch(values, count, 3);
        int operations = once < 200e-6 ? (int)(200e-6 / once) + 1 : 1;
        double wanted = seconds / (operations * once);
        int samples = wanted < 7 ? 7 : wanted > 400 ? 400 : (int)wanted;
        double *times = malloc(samples * sizeof(double));
        for (int i = 0; i < samples; i++) times[i] = batch(values, count, operations);
        qsort(times, samples, sizeof(double), by_value);
        double median = times[samples / 2], p90 = times[(int)(samples * 0.9)];
        if (rank == 0) {
            printf("{\"bytes\":%ld,\"median_us\":%.2f,\"p90_us\":%.2f,\"algbw_gbps\":%.3f}\n", bytes,
                   median * 1e6, p90 * 1e6, bytes / median / 1e9);
            fflush(stdout);
        }
        free(times);
        free(values);
    }
    MPI_Finalize();
    return 0;
}
