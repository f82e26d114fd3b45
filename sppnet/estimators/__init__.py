"""Closed-form, dual and Newton solvers on features that are already there: tensors in, tensors out.

Why not liblinear: it solves one class after the other and reads the features anew for each of them. Here all
classes of a one-vs-rest problem take part in the same matrix products, and the products that only steer the
search (never those that decide when it ends) are done in half precision where the processor has it.

The support vector machine, from the outside in:

    linear_svm.py    LinearSvm: arrays, labels, scikit-learn's interface
    solve.py         which space, in which precision; hinge loss as a sequence of smooth problems
    newton.py        Newton's method with conjugate gradients, all classes at once
    spaces.py        what a weight vector is: d numbers (primal), or n coefficients and the Gram matrix (dual)
    margin_loss.py   squared hinge and hinge as one family of smooth losses
"""
